"""The Hub's words for licenses: a card has one of them, or `other` and says which."""

import difflib


# Source: https://huggingface.co/docs/hub/repositories-licenses
WORDS = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
other
"""
LICENSES = frozenset(WORDS.split())


def check_license(license: str | None, *, name: str | None, link: str | None) -> None:
    """Refuses what the Hub would not understand.

    Raises:
        ValueError: If the license is none of the Hub's, or is `other` without a name and a link.
    """
    if license is None:
        if name or link:
            raise ValueError("license_name and license_link belong to --license other, which is missing.")
        return
    if license not in LICENSES:
        near = difflib.get_close_matches(license.lower().replace(" ", "-"), LICENSES, n=1)
        raise ValueError(
            f"license is {license!r}, which is none of the Hub's words"
            + (f"; did you mean {near[0]!r}?" if near else ".")
            + " See https://huggingface.co/docs/hub/repositories-licenses, or say --license other with --license_name "
            "and --license_link."
        )
    if license == "other" and not (name and link):
        raise ValueError(
            "license is other: say which with --license_name, and where it stands with --license_link (a URL, or "
            "LICENSE for a file of that name in the folder)."
        )
