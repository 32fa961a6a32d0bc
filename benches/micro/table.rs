//! The committed table: what each case cost when somebody last looked.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::process::ExitCode;

use crate::callgrind::{Count, made_by};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/micro/table.tsv");
const RISE_PERCENT_MAX: u64 = 10;
const RENEW: &str = "`just micro --renew` (cargo bench --locked --bench micro -- --renew)";

/// Prints the counts beside the table's, and fails where one has risen or where the table has other cases.
pub(crate) fn compare(counts: &[Count]) -> ExitCode {
    let text = fs::read_to_string(TABLE).unwrap_or_default();
    if !cfg!(target_arch = "x86_64") {
        println!(
            "NOT COMPARED: the table is of x86_64, and this is {}",
            std::env::consts::ARCH
        );
        return ExitCode::SUCCESS;
    }
    let mut table = read(&text);
    let mut faults = Vec::new();
    println!(
        "{:<34}{:>12}{:>12}{:>9}",
        "instructions of one run", "table", "now", ""
    );
    for Count {
        name,
        instructions: now,
    } in counts
    {
        let Some(before) = table.remove(name.as_str()) else {
            faults.push(format!(
                "{name}: {now} instructions, and the table does not have it: write it with {RENEW}"
            ));
            continue;
        };
        println!("{name:<34}{before:>12}{now:>12}{:>9}", change(before, *now));
        if now.saturating_mul(100) > before.saturating_mul(100 + RISE_PERCENT_MAX) {
            faults.push(format!(
                "{name}: {before} → {now} instructions, a rise of more than {RISE_PERCENT_MAX} %. Make it cheaper; or, if it is \
                 worth it, write the table anew with {RENEW} and say why in the commit"
            ));
        }
    }
    faults.extend(
        table
            .keys()
            .map(|name| format!("{name}: is in the table and no longer measured: {RENEW}")),
    );
    for fault in &faults {
        println!("FAILED {fault}");
    }
    if !faults.is_empty() && text.lines().next() != Some(&heading()) {
        println!(
            "The table was made by: {}",
            text.lines().next().unwrap_or_default()
        );
        println!("This is:              {}", heading());
    }
    if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

pub(crate) fn renew(counts: &[Count]) {
    let mut text = format!("{}\n", heading());
    for count in counts {
        writeln!(text, "{}\t{}", count.name, count.instructions).expect("text grows");
    }
    fs::write(TABLE, &text).expect("the table can be written");
    print!("{text}");
}

fn heading() -> String {
    format!("# instructions of one run: {}", made_by())
}

fn read(text: &str) -> BTreeMap<&str, u64> {
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.map(|line| {
        let (name, number) = line.split_once('\t').expect("a name, a tab and a number");
        (name, number.parse().expect("a number"))
    })
    .collect()
}

/// In tenths of a percent, as text: `+1.2 %`.
fn change(before: u64, now: u64) -> String {
    let sign = if now < before { "-" } else { "+" };
    let tenths = now.abs_diff(before).saturating_mul(1000) / before.max(1);
    format!("{sign}{}.{} %", tenths / 10, tenths % 10)
}
