"""In which languages an entity is named, one after the other, where the asked one says nothing."""

from collections.abc import Iterable


# MediaWiki's fallbacks that are not the part before the hyphen.
FALLBACKS = {
    "be-tarask": ("be",),
    "gsw": ("de",),
    "nn": ("nb", "no"),
    "nb": ("no",),
    "simple": ("en",),
    "zh-cn": ("zh-hans", "zh"),
    "zh-hk": ("zh-hant", "zh-tw", "zh"),
    "zh-mo": ("zh-hk", "zh-hant", "zh-tw", "zh"),
    "zh-sg": ("zh-hans", "zh-cn", "zh"),
    "zh-tw": ("zh-hant", "zh"),
}
# What is asked for last: a name in the spelling of one country is better than none.
VARIANTS = {
    "de": ("de-at", "de-ch"),
    "en": ("en-gb", "en-ca", "en-us"),
    "es": ("es-419",),
    "no": ("nb", "nn"),
    "pt": ("pt-br",),
    "sr": ("sr-ec", "sr-el"),
    "zh": ("zh-hans", "zh-cn", "zh-hant", "zh-tw", "zh-hk"),
}
# What is the same in all languages, as the name of a band or of a species.
ALL_LANGUAGES = "mul"


def fallback_languages(language: str, extra: Iterable[str] = ()) -> tuple[str, ...]:
    """The language, its fallbacks on Wikidata, `mul`, languages of the user's, and its national variants."""
    base = language.partition("-")[0]
    fallbacks = FALLBACKS.get(language, (base,))
    return tuple(dict.fromkeys((language, *fallbacks, ALL_LANGUAGES, *extra, *VARIANTS.get(base, ()))))
