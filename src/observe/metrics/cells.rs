//! Counters and histograms as atomic numbers. All of them exist from the start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number for each of a few keys. What is not a key is not counted.
#[derive(Debug)]
pub(super) struct CounterTable<K>(Box<[(K, Counter)]>);

impl<K: Copy + PartialEq> CounterTable<K> {
    pub(super) fn new(keys: impl Iterator<Item = K>) -> Self {
        Self(keys.map(|key| (key, Counter::default())).collect())
    }

    pub(super) fn add(&self, key: &K, amount: u64) {
        if let Some((_, count)) = self.0.iter().find(|(known, _)| known == key) {
            count.add(amount);
        }
    }

    pub(super) fn get(&self, key: &K) -> u64 {
        self.0
            .iter()
            .find(|(known, _)| known == key)
            .map_or(0, |(_, count)| count.get())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (K, u64)> {
        self.0.iter().map(|(key, count)| (*key, count.get()))
    }
}

/// Times, sorted into buckets. (The library's own histogram takes a lock.)
#[derive(Debug)]
pub(super) struct Histogram {
    /// Upper bounds in microseconds, ascending.
    bounds: &'static [u64],
    /// One for each bound, and one for what is above all of them.
    buckets: Box<[Counter]>,
    sum_micros: Counter,
}

/// What a histogram says at one moment: its sum, and each bucket's upper bound and own count.
pub(super) struct HistogramReading {
    pub(super) sum: f64,
    pub(super) count: u64,
    pub(super) counts: Vec<(f64, u64)>,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [u64]) -> Self {
        let buckets = std::iter::repeat_with(Counter::default)
            .take(bounds.len().saturating_add(1))
            .collect();
        Self {
            bounds,
            buckets,
            sum_micros: Counter::default(),
        }
    }

    pub(super) fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let place = self.bounds.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.add(1);
        }
        self.sum_micros.add(micros);
    }

    pub(super) fn read(&self) -> HistogramReading {
        let bounds = self
            .bounds
            .iter()
            .map(|bound| millionths(*bound))
            .chain([f64::MAX]);
        let counts: Vec<(f64, u64)> = bounds.zip(self.buckets.iter().map(Counter::get)).collect();
        let count = counts
            .iter()
            .fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        HistogramReading {
            sum: millionths(self.sum_micros.get()),
            count,
            counts,
        }
    }
}

/// Microseconds as seconds, micro-dollars as dollars: for a page that people look at, where a float is exact enough.
pub(super) fn millionths(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}
