//! Writing a sample as text, by prometheus-client: OpenMetrics 1.0, which Prometheus reads.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::families::{FAMILIES, Family, Kind, Number};
use super::sample::Sample;

/// What the answer's `Content-Type` says.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of a sample.
///
/// # Errors
/// None in practice: writing to a string cannot fail.
pub fn render(sample: Sample) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("margay");
    registry.register_collector(Box::new(Exposition(Arc::new(sample))));
    let mut text = String::with_capacity(64 * 1024);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Exposition(Arc<Sample>);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        FAMILIES
            .iter()
            .try_for_each(|family| tell(family, &self.0, &mut encoder))
    }
}

fn tell(family: &Family, sample: &Sample, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
    let series = (family.series)(sample);
    if series.is_empty() {
        return Ok(());
    }
    let kind = match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
        Kind::Info => MetricType::Info,
    };
    // The library adds the full stop of its own descriptions only where it makes them itself.
    let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
    for (values, number) in &series {
        let labels: Vec<(&str, &str)> = family
            .labels
            .iter()
            .copied()
            .zip(values.iter().map(String::as_str))
            .collect();
        if family.kind == Kind::Info {
            metric.encode_info(&labels.as_slice())?;
        } else if labels.is_empty() {
            write(&mut metric, family.kind, number)?;
        } else {
            write(
                &mut metric.encode_family(&labels.as_slice())?,
                family.kind,
                number,
            )?;
        }
    }
    Ok(())
}

fn write(metric: &mut MetricEncoder, kind: Kind, number: &Number) -> Result<(), Error> {
    match (kind, number) {
        (Kind::Counter, Number::Whole(value)) => metric.encode_counter::<NoLabelSet, _, u64>(value, None),
        (Kind::Counter, Number::Real(value)) => metric.encode_counter::<NoLabelSet, _, f64>(value, None),
        (_, Number::Whole(value)) => metric.encode_gauge(value),
        (_, Number::Real(value)) => metric.encode_gauge(value),
        (_, Number::Counts { classes, sum }) => {
            let count = classes.iter().map(|(_, count)| count).sum();
            metric.encode_histogram::<NoLabelSet>(*sum, count, classes, None)
        }
    }
}
