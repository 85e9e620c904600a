"""One trainer for every method: configuration, session, task, run folder."""
