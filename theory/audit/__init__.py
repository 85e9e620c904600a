"""The audit: from samples and rewards alone, what a fine-tuned model samples.

    data/         what is audited
        tables        CSV, JSON lines, Parquet, read strictly
        inputs        rewards, prompts, features of both sides, checked
        copies        rows that are one sample, written several times
        features      features in one unit
    fit/
        inclusion     labels given how many each prompt has
        likelihood    maximum likelihood of a tilt, one normaliser a prompt
    families/     the wrappers Phi that are fitted
    estimators/
        curve         the ratio as a free curve; goodness of fit
        tilt          the effective tilt and its interval; every prompt's own
        reweighting   effective samples, the lower bound of KL
        compare       which wrapper explains the rewards
        conditional   given the reward, is the rest as it was?
        excess        diversity and Frechet distance beyond what the tilt implies
        influence     what the tilt rests on: without a row, a prompt, 1 % of the rows
        validity      what is asked of the samples before anything is concluded
    report        all of it
    page/         in words and plain data (verdict), as pictures
    known_truth   the estimators on problems with known truth
    coverage      what the intervals cover, whatever the spread of rows over prompts

Pure statistics on arrays; scaleup/audit reads run folders and draws the page.
"""

from typing import TYPE_CHECKING

from theory.common.face import face

if TYPE_CHECKING:
    from theory.audit.data.inputs import audit_data
    from theory.audit.data.samples import AuditData
    from theory.audit.page.verdict import as_json, validity, verdict
    from theory.audit.report import AuditReport, audit
else:
    __getattr__, __dir__, __all__ = face(__name__, __file__)
