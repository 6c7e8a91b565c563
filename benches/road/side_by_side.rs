//! Two executors side by side on one engine, against two plain `docker run` side by side.

use crate::Failure;
use crate::figure::Figure;
use crate::validator;

/// The most by which two jobs at once may suffer more from each other than two `docker run` do. A tenth is what one
/// run differs from the next.
const TARGET: f64 = 1.1;

/// Measures how much slower each is with a neighbour, and divides one by the other.
pub(crate) async fn figure(runs: usize, image: &str) -> Result<Figure, Failure> {
    let alone = validator::job_and_docker_run(runs, image, 1).await?;
    let together = validator::job_and_docker_run(runs, image, 2).await?;
    let jobs = together.0.median() / alone.0.median();
    let docker_runs = together.1.median() / alone.1.median();
    Ok(Figure {
        key: "side_by_side_ratio",
        name: "slowdown of two jobs at once ÷ of two docker runs",
        value: jobs / docker_runs,
        unit: "",
        // One executor per engine: it kills the containers of others at its start.
        reference: f64::NAN,
        target: TARGET,
        is_floor: false,
        note: format!("{jobs:.3} ÷ {docker_runs:.3}"),
    })
}
