"""Zero-shot classification: labels, truth, prompts, classifier, comparison, calibration."""
