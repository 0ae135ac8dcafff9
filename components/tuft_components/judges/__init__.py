"""Models that judge episodes: what they are asked, how, and what is kept of it.

The rewards `judge` and `judge_pairwise` are made of this.
"""
