//! Metrics for others: the OpenMetrics text of a replica's series.
//!
//! Base units, the `atlas_` prefix, `_total` behind counters, and labels of a fixed vocabulary. Histograms have two buckets for each power
//! of two of microseconds; the finer ones stay in the mapped file. The text is made by `prometheus-client`.
//!
//! Source: OpenMetrics 1.0.0, sections "Text Format" and "Histogram".

use std::fmt;

use atlas_dataplane::histogram::{bucket_end_us, total};
use atlas_dataplane::replica::telemetry::{Kind, Unit};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit as ExportedUnit};

use crate::mapped::Measured;

/// The content type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Buckets of ours in one that is exported.
const EXPORTED: usize = 8;

#[derive(Debug)]
struct All(Vec<Measured>);

/// The text, with `# EOF` at its end.
///
/// # Errors
/// None that a text in memory has.
pub fn open_metrics(series: Vec<Measured>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(All(series)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for All {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in self.0.chunk_by(|a, b| a.name == b.name) {
            let Some(first) = family.first() else { continue };
            let unit = match first.unit {
                Unit::None => None,
                Unit::Seconds => Some(ExportedUnit::Seconds),
                Unit::Bytes => Some(ExportedUnit::Bytes),
            };
            let kind = match first.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            // The encoder puts the unit behind the name by itself.
            let suffix = unit.as_ref().map_or_else(String::new, |unit| format!("_{}", unit.as_str()));
            let name = first.name.strip_suffix(&suffix).unwrap_or(&first.name);
            let mut encoder = encoder.encode_descriptor(name, &first.help, unit.as_ref(), kind)?;
            for series in family {
                match &series.label {
                    Some((name, value)) => {
                        put(&mut encoder.encode_family(&[(name.as_str(), value.as_str())])?, series)?;
                    }
                    None => put(&mut encoder, series)?,
                }
            }
        }
        Ok(())
    }
}

fn put(encoder: &mut MetricEncoder<'_>, series: &Measured) -> fmt::Result {
    let value = series.value();
    match (series.kind, series.unit) {
        (Kind::Counter, Unit::Seconds) => encoder.encode_counter::<NoLabelSet, _, f64>(&seconds(value), None),
        (Kind::Counter, _) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        (Kind::Gauge, Unit::Seconds) => encoder.encode_gauge(&seconds(value)),
        (Kind::Gauge, _) => encoder.encode_gauge(&value),
        (Kind::Histogram, _) => {
            let buckets = buckets(series.buckets());
            let count = total(series.buckets());
            encoder.encode_histogram::<NoLabelSet>(seconds(value), count, &buckets, None)
        }
    }
}

/// Microseconds as seconds.
pub fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Upper bounds in seconds, and counts.
fn buckets(all: &[u64]) -> Vec<(f64, u64)> {
    let groups = all.chunks(EXPORTED).enumerate();
    // The encoder adds them up, and a damaged file may hold any numbers.
    let mut left = u64::MAX;
    let exported = groups.map(|(place, counts)| {
        let end = bucket_end_us(place * EXPORTED + counts.len() - 1);
        let count = total(counts).min(left);
        left -= count;
        // A bucket's bound belongs to it, and times are whole.
        (end.map_or(f64::MAX, |end| seconds(end - 1)), count)
    });
    exported.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_dataplane::histogram::Histogram;
    use atlas_dataplane::replica::telemetry::{Board, FAMILIES, Vitals};

    #[test]
    fn counters_gauges_labels_and_histograms_are_in_base_units() {
        let mut sync = Histogram::default();
        [5, 5, 1_500_000].into_iter().for_each(|us| sync.record(us));
        let vitals = Vitals {
            replicas: 4,
            busy_us: 1_250_000,
            view: 3,
            decided: [7, 0, 0],
            log_bytes: 4_096,
            settings: vec![("pool_mib", 32)],
            sync: Some(&sync),
            ..Vitals::default()
        };
        let text = open_metrics(Measured::of_board(&Board::new(&vitals))).unwrap();
        for line in [
            "# TYPE atlas_busy_seconds counter",
            "# UNIT atlas_busy_seconds seconds",
            "atlas_busy_seconds_total 1.25",
            "atlas_view 3",
            "atlas_decisions_total{path=\"fast\"} 7",
            "atlas_link_up{replica=\"0\"} 1",
            "atlas_log_bytes 4096",
            "atlas_log_sync_seconds_count 3",
            "atlas_log_sync_seconds_sum 1.50001",
            "atlas_log_sync_seconds_bucket{le=\"0.000007\"} 2",
            "atlas_log_sync_seconds_bucket{le=\"+Inf\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let types = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
        assert_eq!(types, FAMILIES.len(), "each family is described once");
    }
}
