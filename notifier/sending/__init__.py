"""From a leased batch to replies: the pure core of a run, its shell, retries, routes, budgets."""
