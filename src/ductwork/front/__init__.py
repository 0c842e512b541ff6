"""Two ways to have a request carried out: by this process's engine, and by the agent."""
