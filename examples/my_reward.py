"""A reward of one's own: pairwright score FILE --rater examples/my_reward.py:brevity"""


def brevity(responses):
    """Short is good: minus the number of characters."""
    return [-float(len(text)) for text in responses]
