//! Metrics whose one label has the values of an enum, so that no value is counted that the documents do not name.

use std::marker::PhantomData;
use std::time::Duration;

use super::metrics::{HistogramVec, IntCounter, IntCounterVec, MetricsError, Registry};

/// The values of a label.
pub trait Label: Copy + 'static {
    /// The label.
    const NAME: &'static str;
    /// Every value that is counted.
    const ALL: &'static [Self];

    /// The value, as `/metrics` shows it.
    fn label(self) -> &'static str;
}

/// Declares an enum whose values are those of a label: each variant with what `/metrics` shows of it, once.
///
/// ```text
/// label_values! {
///     /// Why it was left out.
///     pub(super) enum LeftOut: "reason" {
///         /// It is larger than it may be.
///         TooLarge => "too_large",
///     }
/// }
/// ```
macro_rules! label_values {
    (
        $(#[$about:meta])*
        $visible:vis enum $Values:ident: $name:literal {
            $($(#[$what:meta])* $Value:ident => $shown:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visible enum $Values {
            $($(#[$what])* $Value,)+
        }

        impl $crate::support::metric_labels::Label for $Values {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$(Self::$Value),+];

            fn label(self) -> &'static str {
                match self {
                    $(Self::$Value => $shown,)+
                }
            }
        }
    };
}

pub(crate) use label_values;

/// Whether the list of a label has a value: one that is written by hand may lack it.
fn is_listed<L: Label>(value: L) -> bool {
    L::ALL.iter().any(|listed| listed.label() == value.label())
}

/// A counter for each value of a label.
#[derive(Clone)]
pub struct CountersBy<L> {
    counters: IntCounterVec,
    values: PhantomData<L>,
}

impl<L: Label> CountersBy<L> {
    /// Counts one.
    pub fn count(&self, value: L) {
        self.of(value).inc();
    }

    /// Counts so many.
    pub fn add(&self, value: L, count: u64) {
        self.of(value).inc_by(count);
    }

    fn of(&self, value: L) -> IntCounter {
        debug_assert!(is_listed(value), "{} is in no list", value.label());
        self.counters.with_label_values(&[value.label()])
    }
}

/// A histogram of seconds for each value of a label.
#[derive(Clone)]
pub struct LatenciesBy<L> {
    histograms: HistogramVec,
    values: PhantomData<L>,
}

impl<L: Label> LatenciesBy<L> {
    /// Records what took so long.
    pub fn observe(&self, value: L, took: Duration) {
        debug_assert!(is_listed(value), "{} is in no list", value.label());
        self.histograms.with_label_values(&[value.label()]).observe(took.as_secs_f64());
    }
}

impl Registry {
    /// A counter for each value of a label; `name` without the prefix.
    ///
    /// # Errors
    /// A name that is registered already.
    pub fn counters_by<L: Label>(&self, name: &str, help: &str) -> Result<CountersBy<L>, MetricsError> {
        let counters = self.counters(name, help, &[L::NAME])?;
        self.describe_values(name, values::<L>());
        Ok(CountersBy { counters, values: PhantomData })
    }

    /// A histogram of seconds for each value of a label; `name` without the prefix.
    ///
    /// # Errors
    /// A name that is registered already.
    pub fn latencies_by<L: Label>(&self, name: &str, help: &str) -> Result<LatenciesBy<L>, MetricsError> {
        let histograms = self.latencies(name, help, &[L::NAME])?;
        self.describe_values(name, values::<L>());
        Ok(LatenciesBy { histograms, values: PhantomData })
    }
}

fn values<L: Label>() -> Vec<&'static str> {
    L::ALL.iter().map(|value| value.label()).collect()
}
