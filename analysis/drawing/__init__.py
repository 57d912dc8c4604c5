"""What pictures share: style, curves, episodes, the photographer of bodies."""
