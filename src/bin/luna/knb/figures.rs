//! `luna knb figures`: the paper's figures (LUNA §8.1, figures 9 to 12) from this machine's
//! results, each as SVG and PNG.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::FontStyle;

use super::suite::plan::{DEPTHS, SIZES, bytes, cores_per_side};
use super::suite::{Store, Variant, middle};
use crate::show::note;

/// `luna knb figures`
#[derive(Args)]
pub(crate) struct Options {
    /// The results of `luna knb suite figures`
    #[arg(long, value_name = "FILE")]
    results: PathBuf,
    /// The folder to draw in
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
}

const TABLE: &str = "figures";
/// Pixels.
const SIZE: (u32, u32) = (960, 600);
const TEXT: &str = "sans-serif";

/// The stacks that are drawn, dark and full for luna's.
const CURVES: [(Variant, RGBColor); 5] = [
    (Variant::Inline, RGBColor(0xb0, 0x1e, 0x32)),
    (Variant::Batch, RGBColor(0xe0, 0x7b, 0x1a)),
    (Variant::Smoltcp, RGBColor(0x3a, 0x8f, 0x5a)),
    (Variant::KernelSpin, RGBColor(0x4b, 0x8b, 0xc4)),
    (Variant::Kernel, RGBColor(0x2b, 0x45, 0x7d)),
];

pub(crate) fn run(options: &Options) -> ExitCode {
    match draw_all(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&error);
            ExitCode::FAILURE
        }
    }
}

fn draw_all(options: &Options) -> Result<(), String> {
    let store = Store::open(&options.results)?;
    let font = epaint_default_fonts::UBUNTU_LIGHT;
    plotters::style::register_font(TEXT, FontStyle::Normal, font)
        .map_err(|_| "the font can't be read".to_owned())?;
    std::fs::create_dir_all(&options.output)
        .map_err(|error| format!("{}: {error}", options.output.display()))?;
    for figure in [
        by_size(&store),
        by_depth(&store),
        cumulative(&store),
        by_cores(&store),
    ] {
        if figure.curves.is_empty() {
            return Err(format!(
                "{}: nothing measured (luna knb suite figures)",
                figure.name
            ));
        }
        draw(&figure, &options.output)?;
    }
    Ok(())
}

/// How an axis counts. Values are drawn as their logarithms, so that marks fall on round numbers.
#[derive(Clone, Copy)]
enum Scale {
    Linear,
    Log2,
    Log10,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log2 => value.max(1e-9).log2(),
            Self::Log10 => value.max(1e-9).log10(),
        }
    }

    fn value(self, place: f64) -> f64 {
        match self {
            Self::Linear => place,
            Self::Log2 => place.exp2(),
            Self::Log10 => 10_f64.powf(place),
        }
    }
}

struct Axis {
    title: &'static str,
    scale: Scale,
    marks: usize,
    label: fn(f64) -> String,
}

struct Curve {
    variant: Variant,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

struct Figure {
    name: &'static str,
    title: &'static str,
    x: Axis,
    y: Axis,
    curves: Vec<Curve>,
    dots: bool,
}

/// A curve for each stack that has points.
fn curves(points_of: impl Fn(Variant) -> Vec<(f64, f64)>) -> Vec<Curve> {
    CURVES
        .into_iter()
        .map(|(variant, color)| Curve {
            variant,
            color,
            points: points_of(variant),
        })
        .filter(|curve| !curve.points.is_empty())
        .collect()
}

fn gigabits(store: &Store, cell: &str, variant: Variant) -> Option<f64> {
    Some(store.median(TABLE, cell, variant.id(), "mb_per_s")? * 8.0 / 1e3)
}

fn plain(value: f64) -> String {
    match value {
        value if value >= 10.0 || value == 0.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}").trim_end_matches(".0").to_owned(),
        value if value >= 0.01 => format!("{value:.2}").trim_end_matches('0').to_owned(),
        value => format!("{value:.5}").trim_end_matches('0').to_owned(),
    }
}

const RATE: Axis = Axis {
    title: "Gbit/s, each way",
    scale: Scale::Linear,
    marks: 8,
    label: plain,
};

fn by_size(store: &Store) -> Figure {
    let points = |variant| {
        let point = |&size: &u32| {
            Some((
                f64::from(size),
                gigabits(store, &format!("size {size}"), variant)?,
            ))
        };
        SIZES.iter().filter_map(point).collect()
    };
    let y = Axis {
        scale: Scale::Log10,
        marks: 7,
        ..RATE
    };
    Figure {
        name: "throughput-by-size",
        title: "Throughput by message size (one connection, iodepth 1, one core each side)",
        x: Axis {
            title: "message size",
            scale: Scale::Log2,
            marks: 11,
            label: |size| bytes(size.round() as u32),
        },
        y,
        curves: curves(points),
        dots: true,
    }
}

fn by_depth(store: &Store) -> Figure {
    let points = |variant| {
        let point = |&depth: &u32| {
            Some((
                f64::from(depth),
                gigabits(store, &format!("iodepth {depth}"), variant)?,
            ))
        };
        DEPTHS.iter().filter_map(point).collect()
    };
    Figure {
        name: "throughput-by-iodepth",
        title: "Throughput by requests under way (4 KB, one connection, one core each side)",
        x: Axis {
            title: "iodepth",
            scale: Scale::Log2,
            marks: 6,
            label: plain,
        },
        y: RATE,
        curves: curves(points),
        dots: true,
    }
}

/// Each quantile is the middle of the rounds'.
fn cumulative(store: &Store) -> Figure {
    let points = |variant: Variant| {
        let rounds: Vec<Vec<(f64, f64)>> = store
            .alike(TABLE, "size 4096", variant.id())
            .filter_map(|record| {
                let pairs = record.get("cdf")?.as_array()?.iter();
                pairs
                    .map(|pair| Some((pair.get(0)?.as_f64()?, pair.get(1)?.as_f64()?)))
                    .collect()
            })
            .collect();
        let Some(first) = rounds.first() else {
            return Vec::new();
        };
        (0..first.len())
            .filter_map(|index| {
                let at = rounds.iter().filter_map(|round| round.get(index));
                let time = middle(at.clone().map(|&(time, _)| time).collect())?;
                Some((time, first.get(index)?.1 * 100.0))
            })
            .collect()
    };
    Figure {
        name: "latency-cdf",
        title: "Latency of a 4 KB request (one connection, iodepth 1)",
        x: Axis {
            title: "µs",
            scale: Scale::Log10,
            marks: 6,
            label: plain,
        },
        y: Axis {
            title: "% of requests",
            scale: Scale::Linear,
            marks: 10,
            label: plain,
        },
        curves: curves(points),
        dots: false,
    }
}

fn by_cores(store: &Store) -> Figure {
    let points = |variant: Variant| {
        let point = |cores: u16| {
            let rps = store.median(TABLE, &format!("cores {cores}"), variant.id(), "rps")?;
            Some((f64::from(cores), rps / 1e3))
        };
        cores_per_side().into_iter().filter_map(point).collect()
    };
    Figure {
        name: "scaling-by-cores",
        title: "Requests by cores of each side (4 KB, iodepth 1, a connection for each pair)",
        x: Axis {
            title: "cores of each side",
            scale: Scale::Linear,
            marks: 8,
            label: plain,
        },
        y: Axis {
            title: "thousand requests/s",
            scale: Scale::Linear,
            marks: 8,
            label: plain,
        },
        curves: curves(points),
        dots: true,
    }
}

fn draw(figure: &Figure, folder: &Path) -> Result<(), String> {
    let path = |extension: &str| folder.join(format!("{}.{extension}", figure.name));
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", figure.name);
    let svg = path("svg");
    let area = SVGBackend::new(&svg, SIZE).into_drawing_area();
    draw_on(figure, &area).map_err(|error| failed(&error))?;
    let png = path("png");
    let area = BitMapBackend::new(&png, SIZE).into_drawing_area();
    draw_on(figure, &area).map_err(|error| failed(&error))
}

/// Least and greatest place of all points on an axis, with some room.
fn range(figure: &Figure, axis: &Axis, of: fn(&(f64, f64)) -> f64) -> std::ops::Range<f64> {
    let places = figure.curves.iter().flat_map(|curve| &curve.points);
    let places: Vec<f64> = places.map(|point| axis.scale.place(of(point))).collect();
    let least = places.iter().copied().fold(f64::INFINITY, f64::min);
    let most = places.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match axis.scale {
        Scale::Linear => 0.0..(most * 1.08).max(1e-6),
        Scale::Log2 => least..most.max(least + 1.0),
        Scale::Log10 => (least - 0.05).floor()..(most + 0.05).ceil(),
    }
}

type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

fn draw_on<B: DrawingBackend>(figure: &Figure, area: &DrawingArea<B, Shift>) -> Drawn<B> {
    area.fill(&WHITE)?;
    let (x, y) = (&figure.x, &figure.y);
    let mut chart = ChartBuilder::on(area)
        .caption(figure.title, (TEXT, 22))
        .margin(18)
        .margin_right(36)
        .x_label_area_size(52)
        .y_label_area_size(72)
        .build_cartesian_2d(range(figure, x, |p| p.0), range(figure, y, |p| p.1))?;
    chart
        .configure_mesh()
        .x_desc(x.title)
        .y_desc(y.title)
        .x_labels(x.marks)
        .y_labels(y.marks)
        .x_label_formatter(&|place| (x.label)(x.scale.value(*place)))
        .y_label_formatter(&|place| (y.label)(y.scale.value(*place)))
        .label_style((TEXT, 16))
        .axis_desc_style((TEXT, 18))
        .light_line_style(WHITE.mix(0.0))
        .bold_line_style(BLACK.mix(0.12))
        .draw()?;
    for curve in &figure.curves {
        let places: Vec<(f64, f64)> = curve
            .points
            .iter()
            .map(|&(a, b)| (x.scale.place(a), y.scale.place(b)))
            .collect();
        let color = curve.color;
        if figure.dots {
            let dots = places
                .iter()
                .map(|&place| Circle::new(place, 5, color.filled()));
            chart.draw_series(dots)?;
        }
        chart
            .draw_series(LineSeries::new(places, color.stroke_width(3)))?
            .label(curve.variant.title())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], color.stroke_width(3)));
    }
    let place = if figure.dots {
        SeriesLabelPosition::UpperLeft
    } else {
        SeriesLabelPosition::LowerRight
    };
    chart
        .configure_series_labels()
        .position(place)
        .margin(16)
        .legend_area_size(32)
        .label_font((TEXT, 16))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()
}
