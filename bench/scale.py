#!/usr/bin/env python3
"""Where does the first queue form? A simulation of an app's busiest minutes, with the costs that were measured.

    bench/scale.py                                   a million phones a day, then 2, 4, 8, … times as many, on SQLite and on Postgres
    bench/scale.py --phones 200000 --processes 4 --postgres-cores 8

Phones ask by a day's curve; what is simulated is the ledger at the peak, job by job: a request is two jobs, its hold and its ending.
SQLite has one writer, which takes all that waits and flushes once. On Postgres each process has four lanes; a call takes a core of the
database, and then the one row that sums up the whole app, from there to the end of its flush. The processes' own cores are
counted, not simulated: events of streams take most of them. The same seed gives the same figures.
"""

import argparse
import heapq
import math
import random

LANES, BATCH_SQLITE, BATCH_POSTGRES = 4, 1024, 128
GATHER_S, CROWD = 0.004, 16
UTILISATION_MAX, WAIT_MAX_MS = 0.8, 100


def flush(rng, asked):
    """Seconds that the disk takes: a log-normal through the measured median and 99th percentile."""
    sigma = math.log(asked.flush_p99_ms / asked.flush_p50_ms) / 2.326
    return asked.flush_p50_ms / 1000 * math.exp(rng.gauss(0, sigma))


def arrivals(rng, rate, asked):
    """When jobs come, in order: (when, it is a hold). An ending follows its hold by what an answer takes."""
    jobs, now = [], 0.0
    while now < asked.seconds:
        now += rng.expovariate(rate)
        jobs.append((now, True))
        jobs.append((now + rng.expovariate(1 / asked.answer_s), False))
    return sorted(job for job in jobs if job[0] < asked.seconds)


def percentile(values, share):
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


class Waits:
    """What holds waited, in ms, and how long each station was busy."""

    def __init__(self):
        self.ms, self.busy, self.late = [], {}, 0

    def add(self, station, seconds):
        self.busy[station] = self.busy.get(station, 0.0) + seconds

    def done(self, batch, when):
        self.ms += [(when - came) * 1000 for came, hold in batch if hold]


def on_sqlite(rng, jobs, asked):
    """One writer."""
    waits, at, free, crowded = Waits(), 0, 0.0, False
    while at < len(jobs):
        begun = max(free, jobs[at][0]) + (GATHER_S if crowded else 0)
        end = at
        while end < len(jobs) and end - at < BATCH_SQLITE and jobs[end][0] <= begun:
            end += 1
        batch = jobs[at:end]
        took = len(batch) * asked.sqlite_job_ms / 1000 + flush(rng, asked)
        crowded, at, free = len(batch) >= CROWD, end, begun + took
        waits.add("the ledger's writer", took)
        waits.done(batch, free)
    return waits


def on_postgres(rng, jobs, asked):
    """Lanes that call, cores that work, and the row of the whole app."""
    waits, lanes = Waits(), asked.processes * LANES
    queues = [[] for _ in range(lanes)]
    # Users are spread over the processes by the load balancer, and over a process's lanes by their id.
    for job in jobs:
        queues[rng.randrange(lanes)].append(job)
    at, cores, row = [0] * lanes, [0.0] * asked.postgres_cores, 0.0
    ready = [(queue[0][0], lane) for lane, queue in enumerate(queues) if queue]
    heapq.heapify(ready)
    heapq.heapify(cores)
    while ready:
        begun, lane = heapq.heappop(ready)
        queue, start = queues[lane], at[lane]
        end = start
        while end < len(queue) and end - start < BATCH_POSTGRES and queue[end][0] <= begun:
            end += 1
        batch = queue[start:end]
        work = (asked.postgres_call_ms + len(batch) * asked.postgres_job_ms) / 1000
        core = max(heapq.heappop(cores), begun + asked.network_ms / 2000)
        worked = core + work
        heapq.heappush(cores, worked)
        waits.add("Postgres' cores", work / asked.postgres_cores)
        # The row is locked by the last step of a call, and let go with the commit.
        locked = max(worked, row)
        row = locked + asked.app_row_ms / 1000 + flush(rng, asked)
        waits.add("the app's row", row - locked)
        back = row + asked.network_ms / 2000
        waits.done(batch, back)
        at[lane] = end
        if end < len(queue):
            heapq.heappush(ready, (max(back, queue[end][0]), lane))
    return waits


def peak_rate(asked):
    """Requests a second at the busiest time."""
    return asked.phones * asked.requests / 86400 * asked.peak


def report(name, simulate, asked):
    """A line for each size, to the first that has a queue."""
    print(f"\n### {name}\n")
    print("| phones a day | requests a second at the peak | a hold waits, ms p50 / p99 | busiest station | next |")
    print("|---|---|---|---|---|")
    factor = 1
    while True:
        rate = peak_rate(asked) * factor
        rng = random.Random(asked.seed)
        waits = simulate(rng, arrivals(rng, rate, asked), asked)
        waits.ms.sort()
        own = rate * (asked.request_ms + asked.streams * asked.events * asked.event_ms) / 1000
        share = {station: busy / asked.seconds for station, busy in waits.busy.items()}
        share["Tollgate's own cores"] = own / (asked.processes if simulate is on_postgres else 1) / asked.process_cores
        ranked = sorted(share.items(), key=lambda one: -one[1])
        told = [f"{station}: {use:.0%}" for station, use in ranked]
        p50, p99 = percentile(waits.ms, 0.5), percentile(waits.ms, 0.99)
        print(f"| {asked.phones * factor:,} | {rate:,.0f} | {p50:.1f} / {p99:.1f} | {told[0]} | {told[1]} |", flush=True)
        if ranked[0][1] > UTILISATION_MAX or p99 > WAIT_MAX_MS:
            print(f"\nThe first queue: {ranked[0][0]}.")
            return
        factor *= 2


def main():
    """Both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    load = parser.add_argument_group("the load")
    load.add_argument("--phones", type=int, default=1_000_000, help="that ask on a day (%(default)s)")
    load.add_argument("--requests", type=float, default=6, help="of a phone on a day (%(default)s)")
    load.add_argument("--peak", type=float, default=3, help="the busiest time, in averages of the day (%(default)s)")
    load.add_argument("--streams", type=float, default=0.8, help="share of the requests that stream (%(default)s)")
    load.add_argument("--events", type=float, default=150, help="of a stream (%(default)s)")
    load.add_argument("--answer-s", type=float, default=6, help="from the hold to the ending (%(default)s)")
    load.add_argument("--seconds", type=float, default=60, help="that are simulated (%(default)s)")
    load.add_argument("--seed", type=int, default=1)
    cost = parser.add_argument_group("the machines, and what was measured (RESULTS.md)")
    cost.add_argument("--processes", type=int, default=2, help="of Tollgate on one Postgres (%(default)s)")
    cost.add_argument("--process-cores", type=int, default=2, help="of each (%(default)s)")
    cost.add_argument("--postgres-cores", type=int, default=4)
    cost.add_argument("--request-ms", type=float, default=0.09, help="CPU of a whole answer (%(default)s)")
    cost.add_argument("--event-ms", type=float, default=0.02, help="CPU of a paced event (%(default)s)")
    cost.add_argument("--sqlite-job-ms", type=float, default=0.018, help="CPU of the writer for a hold or an ending (%(default)s)")
    cost.add_argument("--postgres-job-ms", type=float, default=0.15, help="CPU of Postgres for a hold or an ending (%(default)s)")
    cost.add_argument("--postgres-call-ms", type=float, default=0.4, help="CPU of Postgres for a call, whatever is in it (%(default)s)")
    cost.add_argument("--app-row-ms", type=float, default=0.2, help="from the lock on the app's row to the commit (%(default)s)")
    cost.add_argument("--network-ms", type=float, default=0.5, help="to the database and back (%(default)s)")
    cost.add_argument("--flush-p50-ms", type=float, default=0.24, help="of a flush (%(default)s)")
    cost.add_argument("--flush-p99-ms", type=float, default=0.95, help="of a flush (%(default)s)")
    asked = parser.parse_args()
    print(f"A phone asks {asked.requests:g} times a day, {asked.streams:.0%} of it streams of {asked.events:g} events; the peak is {asked.peak:g} averages.")
    report("SQLite, one process", on_sqlite, asked)
    report(f"Postgres with {asked.postgres_cores} cores, {asked.processes} processes", on_postgres, asked)


if __name__ == "__main__":
    main()
