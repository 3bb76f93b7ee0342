"""The hospital's daemon: a line to the coordinator, a worker that trains, an outbox between."""
