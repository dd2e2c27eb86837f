"""Workers: they take jobs from the queue, run each in a child process, and store the results."""
