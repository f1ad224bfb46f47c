"""Deeds on the local disk that are killed, refused and disturbed at every step, in processes of their own."""
