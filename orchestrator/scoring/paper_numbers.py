"""The paper's numbers (Tables 1, 6, 7 and 8), for a column of their own; never mixed with measured ones."""

from dimr_model import VARIANTS, DiMRConfig

# variant -> guided -> metric -> value; FID-50K by ADM's evaluator, after the epochs in the text.
_RESULTS: dict[str, dict[bool, dict[str, str]]] = {
    "M/3R-64": {False: {"fid": "3.65 (240 epochs)", "is": "42.41 (240 epochs)"}},
    "L/3R-64": {False: {"fid": "2.21 (240 epochs)"}},
    "XL/2R-256": {
        False: {"fid": "4.50 (800 epochs)"},
        True: {
            "fid": "1.70 (800 epochs)",
            "is": "289.0 (800 epochs)",
            "precision": "0.79 (800 epochs)",
            "recall": "0.63 (800 epochs)",
        },
    },
    "G/2R-256": {
        False: {"fid": "3.56 (800 epochs)"},
        True: {
            "fid": "1.63 (800 epochs)",
            "is": "292.5 (800 epochs)",
            "precision": "0.79 (800 epochs)",
            "recall": "0.63 (800 epochs)",
        },
    },
    "XL/3R-512": {
        False: {"fid": "7.93 (800 epochs)"},
        True: {
            "fid": "2.89 (800 epochs)",
            "is": "289.8 (800 epochs)",
            "precision": "0.83 (800 epochs)",
            "recall": "0.55 (800 epochs)",
        },
    },
}


def paper_value(model: DiMRConfig, metric: str, guided: bool, samples: int, extractor: str) -> str:
    """What the paper reports for this network, or nothing; it scored 50,000 samples with Inception."""
    if samples != 50_000 or extractor != "inception":
        return ""
    for variant, results in _RESULTS.items():
        if VARIANTS[variant] == model:
            return results.get(guided, {}).get(metric, "")
    return ""
