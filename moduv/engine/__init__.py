"""The ground every room stands on; nothing here knows about vision."""
