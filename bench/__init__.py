"""`make bench`: what Standby costs, each figure beside what the machine could do at best, in one run."""
