"""Pictures and the report page; nothing here runs a model."""
