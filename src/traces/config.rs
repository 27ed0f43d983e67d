//! Where traces are sent, and how many of them.

use std::fmt;
use std::str::FromStr;

use url::Url;

/// Where traces are sent, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// The collector; without one there are no traces.
    pub collector: Option<Collector>,
    /// The share of the traces that are sent.
    pub sample: SampleRatio,
}

/// The base URL of a collector, to which `/v1/traces` is added.
///
/// It holds no user name, password, query or fragment, so that it can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector(Url);

/// Why a text is no [`Collector`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidCollector {
    /// It is no URL of HTTP.
    #[error("expected a URL such as http://collector:4318")]
    Url,
    /// It holds what would be shown wherever the configuration is.
    #[error(
        "a URL without user name, password, query and fragment is needed; a header that the collector asks for is set in \
         OTEL_EXPORTER_OTLP_HEADERS"
    )]
    Parts,
}

impl Collector {
    /// Where spans are posted to.
    pub fn spans_url(&self) -> String {
        format!("{}/v1/traces", self.0.as_str().trim_end_matches('/'))
    }

    /// Whether it is reached over TLS.
    pub fn is_tls(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl FromStr for Collector {
    type Err = InvalidCollector;

    fn from_str(text: &str) -> Result<Self, InvalidCollector> {
        let url = Url::parse(text).map_err(|_no_url| InvalidCollector::Url)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(InvalidCollector::Url);
        }
        let has_login = !url.username().is_empty() || url.password().is_some();
        if has_login || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidCollector::Parts);
        }
        Ok(Self(url))
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// The share of requests that are traced, in steps of a thousandth of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleRatio {
    hundred_thousandths: u32,
}

/// Why a text is no [`SampleRatio`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected a percentage from 0% to 100% with three decimal places at most, such as 100%, 5% or 0.1%")]
pub struct InvalidSampleRatio;

/// The steps of a whole.
const WHOLE: u32 = 100_000;
/// The steps of a percent.
const PERCENT: u32 = WHOLE / 100;

impl Default for SampleRatio {
    /// All.
    fn default() -> Self {
        Self { hundred_thousandths: WHOLE }
    }
}

impl SampleRatio {
    /// As a number from 0 to 1.
    pub fn ratio(self) -> f64 {
        f64::from(self.hundred_thousandths) / f64::from(WHOLE)
    }
}

impl FromStr for SampleRatio {
    type Err = InvalidSampleRatio;

    fn from_str(text: &str) -> Result<Self, InvalidSampleRatio> {
        let number = text.strip_suffix('%').ok_or(InvalidSampleRatio)?;
        let (percents, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(percents) || !is_number(decimals) || percents.len() > 3 || decimals.len() > 3 {
            return Err(InvalidSampleRatio);
        }
        let percents: u32 = percents.parse().map_err(|_| InvalidSampleRatio)?;
        let steps: u32 = format!("{decimals:0<3}").parse().map_err(|_| InvalidSampleRatio)?;
        let hundred_thousandths = percents * PERCENT + steps;
        if hundred_thousandths > WHOLE { Err(InvalidSampleRatio) } else { Ok(Self { hundred_thousandths }) }
    }
}

impl fmt::Display for SampleRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percents, steps) = (self.hundred_thousandths / PERCENT, self.hundred_thousandths % PERCENT);
        match format!("{steps:03}").trim_end_matches('0') {
            "" => write!(f, "{percents}%"),
            decimals => write!(f, "{percents}.{decimals}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_url_of_a_collector_is_refused_and_not_shown_with_the_configuration() {
        for refused in
            ["https://u:secret@c.test", "http://u@c.test", "http://c.test/?key=secret", "http://c.test#x"]
        {
            assert_eq!(refused.parse::<Collector>(), Err(InvalidCollector::Parts), "{refused}");
        }
        for refused in ["collector:4318", "ftp://c.test", "grpc://c.test:4317", ""] {
            assert_eq!(refused.parse::<Collector>(), Err(InvalidCollector::Url), "{refused}");
        }
    }

    #[test]
    fn spans_go_to_the_path_that_the_specification_names() {
        let to = |text: &str| text.parse::<Collector>().unwrap().spans_url();
        assert_eq!(to("http://collector:4318"), "http://collector:4318/v1/traces");
        assert_eq!(to("https://c.test/otlp/"), "https://c.test/otlp/v1/traces");
    }

    #[test]
    fn a_share_is_written_as_it_is_read() {
        for text in ["0%", "100%", "5%", "0.1%", "12.345%", "0.001%"] {
            assert_eq!(text.parse::<SampleRatio>().unwrap().to_string(), text);
        }
        assert_eq!("0.1%".parse::<SampleRatio>().unwrap().ratio(), 0.001);
        for refused in
            ["", "%", "5", "-1%", "+1%", "100.001%", "101%", "1.2345%", "1.%", ".5%", "99999999999%"]
        {
            assert_eq!(refused.parse::<SampleRatio>(), Err(InvalidSampleRatio), "{refused}");
        }
    }
}
