"""The proof of the verifier: planted faults that it must find, and live systems where it must find none."""
