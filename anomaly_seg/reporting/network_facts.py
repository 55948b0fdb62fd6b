"""What a run's network says about itself, and what stands for it in results older than that."""

from anomaly_seg.results.schema import NetworkFacts, Result

TITLES = {
    "one_stage": "One-Stage",
    "seg_dec": "Seg-Dec",
    "unet": "U-Net",
    "encoder_decoder": "Encoder-decoder",
}
"""Titles by model, for older results. In a report these models come first, in this order; any other follows by name."""

OLD_MAPS = ("f1", "C", "F")
OLD_READOUTS = (*OLD_MAPS, "F0", "F1", "F2", "F3", "F4", "F5")


def network_facts(result: Result) -> NetworkFacts:
    """The network's own facts; for an older result its title, maps and order of readouts, without their meanings."""
    if result.network is not None:
        return result.network
    return NetworkFacts(
        title=TITLES.get(result.run.model, ""),
        maps=[name for name in OLD_MAPS if name in result.readouts],
        meanings={name: "" for name in OLD_READOUTS if name in result.readouts},
    )


def place_in_report(model: str) -> int:
    """Rank of a model, whatever its encoder, among the methods of a report."""
    network = model.partition("-")[0]
    return list(TITLES).index(network) if network in TITLES else len(TITLES)
