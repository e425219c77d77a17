import time

import pytest

from data_scripts.text.tokens import alias_key
from data_scripts.text.web_text import FILLER, read_web_text


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("snow&nbsp;leopard", "snow leopard"),
        ("SNOW&NBSP;LEOPARD", "snow leopard"),
        ("snow&#160;leopard", "snow leopard"),
        ("snow&#xA0leopard", "snow leopard"),
        ("caf&eacute;s &#233;t&#xe9;", "cafés été"),
        ("salt &amp; pepper", "salt pepper"),
        ("salt &amp;amp;amp; pepper", "salt pepper"),
        ("&quot;snow&quot; leopard", "snow\x1fleopard"),
        ("O&#39;Neil&rsquo;s", "o'neil's"),
        ("gra&shy;na&zwj;te", "granate"),
        ("AT&T &c; R&B;", "at t c\x1fr b"),
        ("snow<br/>leopard", "snow leopard"),
        ("<b>gran</b>ate &lt;i class='x'&gt;peel&lt;/i&gt;", "granate peel"),
        ("<p>snow</p><p>leopard</p>", "snow\x1fleopard"),
        ('<a href="/octopus">snow</a><!-- cat --> leopard', "snow leopard"),
        ("2 < 3, a <leopard>", "2\x1f3\x1fa\x1fleopard"),
        ("snow%20leopard.jpg", "snow leopard jpg"),
        ("img50%2520leopard%2Epng", "img50 leopard png"),
        ("M%FCnchen t%C3%A9l%C3%A9", "münchen télé"),
        ("C%2B%2B", "c++"),
        ("50%20off, 100%de", "50\x1f20off\x1f100\x1fde"),
        ("100%acrylic", "100\x1facrylic"),
        ("@leopard octopus@cat.org, a dog @ home", "a dog\x1fhome"),
        ("https://www.octopus.com/snow-leopard.jpg", "snow leopard jpg"),
        ("www.octopus.com cat", "cat"),
    ],
)
def test_a_text_is_read_as_a_browser_shows_it(text, key):
    assert alias_key(text) == key


def test_what_is_read_has_the_length_of_what_was_written():
    assert read_web_text("a&eacute;<br>%C3%A9b") == "aé" + 7 * FILLER + "    é" + 5 * FILLER + "b"


@pytest.mark.parametrize("text", ["snow leopard, 100% wool & silk", "a < b > c", "&unknown; &nbspx"])
def test_what_is_no_markup_stays(text):
    assert read_web_text(text) == text


@pytest.mark.parametrize("piece", ["&amp;", "<a ", "&lt;a ", "<!--", "%25", "a.", "@", "&#", "<b x=&amp;"])
def test_a_megabyte_of_one_mark_takes_no_time(piece):
    started = time.perf_counter()
    assert len(read_web_text("&" + piece * (1_000_000 // len(piece)))) > 999_000
    assert time.perf_counter() - started < 20
