"""A research service over Python's language reference: the old way and as durable workflows."""
