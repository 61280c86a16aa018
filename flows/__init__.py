"""Example flows: business logic of one's own on the record queue."""
