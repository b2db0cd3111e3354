"""English function words: in every text, so they describe no cluster. Two letters at least, lower case, without apostrophes."""

FUNCTION_WORDS = frozenset(
    """
    about above after again against all also am an and any are as at be because been before being below between both but by
    can cannot could did do does doing don down during each either else ever every few for from further get gets got had has
    have having he her here hers herself him himself his how if in into is isn it its itself just let ll may me might more
    most much must my myself no nor not now of off on once only onto or other our ours ourselves out over own per re same she
    should since so some such than that the their theirs them themselves then there these they this those though through to
    too under until up upon us ve very was we were what when where whether which while who whom whose why will with within
    without would yet you your yours yourself yourselves
    """.split()
)
