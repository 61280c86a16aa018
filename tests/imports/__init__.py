"""Imports of a legacy queue that is in use: old workers, new workers, an application and faults at once."""
