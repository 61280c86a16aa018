"""The processes that run tasks: consumers, the loop, the pool, the sweeper's process."""
