"""Flask views and responses for stored files."""
