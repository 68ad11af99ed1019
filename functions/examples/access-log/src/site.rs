//! The contents of the log: the pages of a site, its visitors, and its answers.

use crate::choice::Choice;
use crate::random::Random;

const CLIENTS: u32 = 20_000;
const PAGES: u32 = 5_000;
const MISSING: u32 = 1_500;

/// A web site and its visitors.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) clients: Choice<String>,
    pub(crate) methods: Choice<&'static str>,
    pub(crate) pages: Choice<Page>,
    /// Pages that visitors request although they do not exist.
    pub(crate) missing: Choice<String>,
    pub(crate) answers: Choice<Answer>,
    pub(crate) referrers: Choice<String>,
    pub(crate) browsers: Choice<&'static str>,
}

/// Something that exists.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) path: String,
    /// Its length in bytes, as recorded in the log.
    pub(crate) size: String,
}

/// The server's answer to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// A page that exists, with its size.
    Page(&'static str),
    /// A page that exists, with an answer of another size.
    Short(&'static str, &'static str),
    /// Something that does not exist.
    Missing(&'static str, &'static str),
}

impl Site {
    /// Makes one up.
    pub(crate) fn new(random: &mut Random) -> Self {
        let pages: Vec<Page> = (0..PAGES).map(|number| page(number, random)).collect();
        let referrers =
            ["-", "https://www.google.com/", "https://www.bing.com/", "https://duckduckgo.com/"].map(String::from);
        let referrers = referrers
            .into_iter()
            .chain(pages.iter().take(500).map(|page| format!("https://www.example.org{}", page.path)));
        Self {
            referrers: Choice::zipf(referrers.collect::<Vec<_>>()),
            clients: Choice::zipf((0..CLIENTS).map(|_| client(random))),
            methods: Choice::weighted([(90, "GET"), (6, "POST"), (4, "HEAD")]),
            missing: Choice::zipf((0..MISSING).map(|_| missing(random))),
            answers: Choice::weighted([
                (800, Answer::Page("200")),
                (10, Answer::Page("206")),
                (75, Answer::Short("304", "-")),
                (25, Answer::Short("301", "231")),
                (8, Answer::Short("500", "531")),
                (2, Answer::Short("503", "299")),
                (70, Answer::Missing("404", "196")),
                (10, Answer::Missing("403", "199")),
            ]),
            browsers: Choice::zipf(BROWSERS),
            pages: Choice::zipf(pages),
        }
    }
}

fn client(random: &mut Random) -> String {
    let number = random.next();
    let [a, b, c, d, ..] = number.to_le_bytes();
    if random.below(10) == 0 { format!("2001:db8:{a:x}{b:02x}::{c:x}{d:02x}") } else { format!("10.{a}.{b}.{c}") }
}

fn page(number: u32, random: &mut Random) -> Page {
    let path = match random.below(10) {
        _ if number == 0 => "/".into(),
        0..4 => format!("/{}/{}-{number}.html", word(random), word(random)),
        4..6 => {
            format!("/static/{}.{}.{}", word(random), random.below(1 << 24), ["css", "js"][random.below(2) as usize])
        }
        6..8 => format!("/images/{}/{}-{number}.webp", word(random), word(random)),
        8 => format!("/search?q={}+{}&page={}", word(random), word(random), random.below(20)),
        _ => format!("/api/v1/{}/{number}", word(random)),
    };
    let magnitude = 8 + random.below(10);
    let size = 200 + random.below(1 << magnitude);
    Page { path, size: size.to_string() }
}

fn missing(random: &mut Random) -> String {
    const PROBES: [&str; 6] = ["/wp-login.php", "/xmlrpc.php", "/.env", "/.git/config", "/favicon.ico", "/admin.php"];
    match random.below(4) {
        0 => format!("/{}{}", word(random), PROBES[random.below(PROBES.len() as u32) as usize]),
        1 => format!("/old/{}/{}.html", word(random), word(random)),
        2 => format!("/{}/{}.php?id={}", word(random), word(random), random.below(100)),
        _ => format!("/{}-{}", word(random), random.below(10_000)),
    }
}

fn word(random: &mut Random) -> &'static str {
    WORDS[random.below(WORDS.len() as u32) as usize]
}

const WORDS: [&str; 40] = [
    "about",
    "archive",
    "article",
    "atlas",
    "bridge",
    "canyon",
    "catalog",
    "circuit",
    "coast",
    "compass",
    "delta",
    "engine",
    "forest",
    "gallery",
    "garden",
    "guide",
    "harbor",
    "history",
    "island",
    "journal",
    "lantern",
    "library",
    "market",
    "meadow",
    "mirror",
    "museum",
    "news",
    "observatory",
    "orchard",
    "product",
    "quarry",
    "report",
    "river",
    "signal",
    "station",
    "summit",
    "theater",
    "tutorial",
    "valley",
    "weather",
];

const BROWSERS: [&str; 10] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 \
     Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "curl/8.14.1",
    "Go-http-client/2.0",
    "-",
];
