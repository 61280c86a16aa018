"""RQ's own tests against our worker class: `make test-rq`."""
