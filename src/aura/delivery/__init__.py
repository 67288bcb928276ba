"""Change what runs: split, observation, guard, plan, decision."""
