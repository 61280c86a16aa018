"""`make soak`: workers and Redis die at named steps, again and again; an oracle of its own judges it."""
