"""Short names for record processing: each module holds names of `app.distributed` and nothing of its own."""
