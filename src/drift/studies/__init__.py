"""The paper's studies and the demonstration: many runs of one command each, and what runs them.

In: the name of a study, a world, a budget. Out: run folders, their evaluations, and a page for each
reward. Start reading at `plans.STUDIES`, then `reproduce.reproduce`.
"""
