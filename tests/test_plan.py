"""Keys: what is the same work has the same key, and nothing else has."""

from decode.plan import digest_of

LOW, SLOW = (
    {"_target_": "decode.steps.filter.Filter", "low": 1.0},
    {"_target_": "x.R", "sfreq": 100},
)


def test_the_order_of_arguments_means_nothing():
    turned = dict(reversed(LOW.items()))
    assert list(turned) != list(LOW)
    assert digest_of([LOW]) == digest_of([turned])
    assert digest_of({"_target_": "x", "a": LOW, "b": 1}) == digest_of(
        {"b": 1, "a": turned, "_target_": "x"}
    )


def test_steps_in_another_order_are_other_work():
    def chain(steps):
        return {"_target_": "decode.preprocessing.chain.Chain", "steps": steps}

    first = chain({"filter": LOW, "resample": SLOW})
    assert digest_of(first) != digest_of(chain({"resample": SLOW, "filter": LOW}))
    assert digest_of(first) == digest_of(chain({"filter": LOW, "resample": SLOW}))
