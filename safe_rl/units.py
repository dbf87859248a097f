"""What the names in `metrics.json` mean and in which unit they are; the definitions are in docs/metrics.md."""

from __future__ import annotations

UNITS = {
    "accuracy": "mean score, as a fraction",
    "audio_accuracy": "mean score on questions that need audio, as a fraction",
    "retention_score": "mean score on questions that need none, as a fraction",
    "drop": "the base's score minus the achieved one on questions that need none, as a fraction: 0.003 is 0.3 points",
    "harm": "share of questions that need none where the base was right and the achieved answer is wrong",
    "usage": "share of questions on which audio is used",
    "latency_ms": "milliseconds per question, mean",
    "latency_p50_ms": "milliseconds that half of the decisions do not exceed",
    "latency_p95_ms": "milliseconds that 95 % of the decisions do not exceed",
    "flops": "floating-point operations per question, mean, where the table tells those of its actions",
    "utility": "mean reward at the final alpha and gamma",
    "regret": "utility of the cost-aware oracle minus the achieved one",
    "audio_gain_share": "gain in audio_accuracy over never, as a share of the gain of always",
    "apgr": "mean share of always's gain in accuracy over never, over all shares of use; a coin has 0.5",
    "cpt50": "smallest share of use that reaches 50 % of always's gain in accuracy",
    "cpt80": "smallest share of use that reaches 80 % of it",
    "cpt95": "smallest share of use that reaches 95 % of it",
    "aiq": "mean accuracy on the accuracy-latency hull, from the latency of never to that of always",
    "zero_router_aiq": "aiq of coin tosses between never and always",
    "use_ece": "expected calibration error of the probability of use as that of audio being right",
    "use_brier": "Brier score of the same",
    "benefit_ece": "expected calibration error of P(base wrong, audio right), read off the policy's number",
    "benefit_brier": "Brier score of the same",
    "harm_ece": "expected calibration error of P(base right, audio wrong), read off the policy's number",
    "harm_brier": "Brier score of the same",
    "matched_usage": "baselines that use audio on as many questions as the learned policy, seed by seed",
    "paired": "learned policy minus baseline on the same questions; McNemar's exact test per seed",
    "paired_matched_usage": "the same against the baselines of matched_usage",
}
