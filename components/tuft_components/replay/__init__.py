"""Error replay: tasks that the policy failed are played again.

`feedback` writes down what became of the tasks of its iteration (`records`), a file an iteration.
`rollout` reads the files of all iterations whose updates its policy has (`store`), and plays some
of the failed tasks instead of new ones. So what is played again follows from what was recorded,
and from nothing else: not from the time, and not from which step was killed and ran again.
"""
