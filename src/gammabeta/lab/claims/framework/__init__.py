"""What runs, caches and reports the claims; a claim itself is one file in the folder above."""
