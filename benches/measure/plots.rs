//! The plots of docs/performance.md: small PNG files on a light ground, with a font that is part of the build.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::latency::Point;
use crate::memory::Memory;
use crate::results::Results;
use crate::sample::Sample;
use crate::throughput::{IDEAL, Row};

const SIZE: (u32, u32) = (880, 440);
const FONT: &str = "sans-serif";
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x9a, 0x9a, 0x9a),
    RGBColor(0xc8, 0xc8, 0xc8),
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xe0, 0x7b, 0x1f),
    RGBColor(0x2a, 0x8f, 0x5b),
    RGBColor(0x8a, 0x4f, 0xa8),
];

/// Draws what there are results for, into docs/performance/.
pub(crate) fn write(results: &Results) {
    register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
        .unwrap_or_else(|_| panic!("the font is one"));
    let directory = crate::repository().join("docs/performance");
    fs::create_dir_all(&directory).expect("docs/ is writable");
    if let Some(part) = &results.captures {
        draw(&directory.join("throughput.png"), |area| throughput(area, &part.found));
        draw(&directory.join("cpu.png"), |area| cpu(area, &part.found));
    }
    if let Some(part) = &results.latency {
        draw(&directory.join("latency.png"), |area| latency(area, &part.found));
    }
    if let Some(part) = &results.memory {
        draw(&directory.join("memory.png"), |area| memory(area, &part.found));
    }
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, plotters::coord::Shift>;

fn draw(path: &Path, plot: impl FnOnce(&Area<'_>)) {
    let mut pixels = vec![0; SIZE.0 as usize * SIZE.1 as usize * 3];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area();
        area.fill(&WHITE).expect("the plot is drawn");
        plot(&area);
        area.present().expect("the plot is drawn");
    }
    let file = BufWriter::new(File::create(path).expect("docs/ is writable"));
    let mut encoder = png::Encoder::new(file, SIZE.0, SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header().expect("the file is writable");
    writer.write_image_data(&pixels).expect("the file is writable");
}

/// Bars beside each other for each cell.
fn bars(area: &Area<'_>, title: &str, unit: &str, groups: &[(String, Vec<(String, f64)>)]) {
    let most = groups.iter().flat_map(|(_, bars)| bars).map(|(_, value)| *value).fold(0.0, f64::max) * 1.4;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 20))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..groups.len() as f64, 0.0..most)
        .expect("the plot is drawn");
    let label = |at: &f64| {
        // Labels stand in the middle of their group.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
        let index = *at as usize;
        if (at.fract() - 0.5).abs() < 0.01 {
            groups.get(index).map_or_else(String::new, |group| group.0.clone())
        } else {
            String::new()
        }
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_labels(2 * groups.len() + 1)
        .x_label_formatter(&label)
        .y_desc(unit)
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .draw()
        .expect("the plot is drawn");
    let names: Vec<&String> =
        groups.first().map_or_else(Vec::new, |(_, bars)| bars.iter().map(|(name, _)| name).collect());
    for (index, name) in names.into_iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let rectangles = groups.iter().enumerate().filter_map(|(group, (_, bars))| {
            let width = 0.8 / bars.len() as f64;
            let left = group as f64 + 0.1 + index as f64 * width;
            let value = bars.get(index)?.1;
            Some(Rectangle::new([(left, 0.0), (left + width * 0.92, value)], colour.filled()))
        });
        chart
            .draw_series(rectangles)
            .expect("the plot is drawn")
            .label(name.clone())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight);
}

fn legend<'a, 'b: 'a, X, Y>(
    chart: &mut ChartContext<'a, BitMapBackend<'b>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.85))
        .label_font((FONT, 13))
        .draw()
        .expect("the plot is drawn");
}

fn throughput(area: &Area<'_>, rows: &[Row]) {
    let groups: Vec<_> = rows
        .iter()
        .map(|row| {
            let part = |name: &str| row.ratio(name, IDEAL).map_or(0.0, |ratio| ratio.median);
            (
                row.cell.to_string(),
                row.runs.iter().map(|runs| (runs.name.clone(), part(&runs.name))).collect(),
            )
        })
        .collect();
    bars(area, "Throughput, beside an ideal client with the same script", "of the ideal client's", &groups);
}

fn cpu(area: &Area<'_>, rows: &[Row]) {
    let groups: Vec<_> = rows
        .iter()
        .filter(|row| row.cell.channels == 1 && row.cell.bytes <= 1024)
        .map(|row| {
            let micros =
                row.runs.iter().map(|runs| (runs.name.clone(), runs.spread(Sample::client_micros).median));
            (row.cell.short(), micros.collect())
        })
        .collect();
    bars(area, "Processor time of the client", "µs a message", &groups);
}

fn latency(area: &Area<'_>, points: &[Point]) {
    let points: Vec<&Point> = points.iter().filter(|point| point.rate == 10_000).collect();
    let all = points.iter().flat_map(|point| &point.micros).map(|(_, micros)| *micros);
    let (least, most) =
        all.fold((f64::MAX, 1.0), |(least, most), micros| (micros.min(least), micros.max(most)));
    // Nines to the right: 0.9, 0.99, 0.999.
    let nines = |quantile: f64| -(1.0 - quantile.min(0.9999)).log10();
    let mut chart = ChartBuilder::on(area)
        .caption("Latency at 10,000 messages/s", (FONT, 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..4.0, (least * 0.8..most * 1.2).log_scale())
        .expect("the plot is drawn");
    let label = |at: &f64| match at {
        at if *at < 0.1 => "0".to_owned(),
        at => format!("{}", (1.0 - 10_f64.powf(-at)) * 100.0) + " %",
    };
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_labels(5)
        .x_label_formatter(&label)
        .x_desc("part of the messages that took at most so long")
        .y_desc("µs")
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .draw()
        .expect("the plot is drawn");
    for (index, point) in points.into_iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let line = point.micros.iter().map(|(quantile, micros)| (nines(*quantile), *micros));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))
            .expect("the plot is drawn")
            .label(point.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
    }
    legend(&mut chart, SeriesLabelPosition::LowerRight);
}

fn memory(area: &Area<'_>, memory: &Memory) {
    let points: Vec<(f64, f64)> =
        memory.over_messages.iter().map(|(count, mib)| (*count as f64 / 1e6, *mib)).collect();
    let end = points.last().map_or(1.0, |(count, _)| *count);
    let most = points.iter().map(|(_, mib)| *mib).fold(16.0, f64::max) * 1.2;
    let mut chart = ChartBuilder::on(area)
        .caption("Memory of one route", (FONT, 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..end, 0.0..most)
        .expect("the plot is drawn");
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("million messages")
        .y_desc("MiB resident")
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .draw()
        .expect("the plot is drawn");
    chart.draw_series(LineSeries::new(points, COLOURS[2].stroke_width(2))).expect("the plot is drawn");
}
