"""``python -m m3po``, the same as ``m3po``."""

from m3po.launcher import main

if __name__ == "__main__":
    main()
