"""Stand-ins and readers the tests share."""
