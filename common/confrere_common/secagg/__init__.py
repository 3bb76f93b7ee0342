"""Secure aggregation, arithmetic only: fixed point, masks, shares, and the words of the protocol.

The protocol is Bonawitz et al. 2017 (https://doi.org/10.1145/3133956.3133982) with signed keys, a
pinned roster and the consistency check, so the coordinator learns the sum of the updates of at
least *threshold* sites and nothing else of any one of them.

Promised, against a coordinator that relays, drops, replays, alters or equivocates, together with c
sites that tell it all they know, as long as c < 2 * threshold - n: a site that keeps to the
protocol shows no more than its share in one sum.

Not promised: that the sum is right (a coordinator or a site can spoil it; sites and server notice
most of that and drop the round); anything about a sum of two sites, which tells each of them the
other's part; anything about the *difference* of rounds whose cohorts differ, for which differential
privacy stands; secrecy against a site's own machine. No one outside has reviewed it yet.
"""
