"""Bounds side by side, the dossier of proofs, and the adversary that attacks them."""
