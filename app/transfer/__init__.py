"""Moving waiting tasks between the tracks, what is recorded before a move, and the proof after it."""
