"""Take a student to where it is used: its model card, exports, a server."""
