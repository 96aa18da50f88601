//! Running a share of the samples for the job of another process.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::gather::{GatherOptions, Passes, gather_for};
use crate::analysis::Analysis;
use crate::calibrate::team::Board;
use crate::calibrate::{Calibration, Recording, Team, merge_stats};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::repair::{self, Bases, recording};

/// What a worker has to know of the job that it serves.
#[derive(Debug, Clone, Default)]
pub struct Service {
    /// The number of this worker, counted from 1.
    pub worker: usize,
    /// The number of all workers.
    pub workers: usize,
    /// What the job needs sums for.
    pub passes: Passes,
    /// The values that the job thaws.
    pub thaw: BTreeSet<String>,
}

/// Works for the job that leads at `board`: gathers sums of a share of the samples, loads the merged sums of all workers, and runs
/// its samples for every repair that the job asks for. The sums are kept in the file `stats` of the options meanwhile. Returns the
/// number of repairs.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) without samples or such a file, [`Input`](crate::ErrorKind::Input) for a malformed model or data,
/// [`Runtime`](crate::ErrorKind::Runtime) if the lead cannot be reached.
pub(crate) fn serve(
    model: &Model,
    options: &GatherOptions,
    service: &Service,
    board: &Arc<dyn Board>,
) -> Result<usize> {
    let (number, of) = (service.worker, service.workers);
    let team = Team::new(Arc::clone(board), of, Some(number.wrapping_sub(1)))?;
    let file = options.setting.stats.clone().ok_or_else(|| Error::usage("`stats` is where sums are kept meanwhile"))?;
    let progress = &options.setting.progress;
    progress.enter("analysing")?;
    let mut options = options.clone();
    // One worker sums up all samples, as a job without workers.
    options.setting.share = (of > 1).then(|| team.share());
    options.setting.folds = true;
    let (opened, samples) = options.opened(model)?;
    let setting = &opened.setting;
    let analysis = Analysis::new(model, &setting.dims, &service.thaw)?;
    let subject = analysis.subject();
    let calibration = |data| Calibration::within(subject.model, data, setting.seed, setting.limits);
    let no_samples = || Error::usage("there are no samples: give some with `data`");
    progress.enter("gathering")?;
    let data = samples.data.as_ref().ok_or_else(no_samples)?;
    let recorded = gather_for(subject, calibration(data)?, (service.passes, Recording::without_sums))?;
    samples.kept(Ok(()))?;
    let failed = |e: std::io::Error| Error::output(e.to_string()).in_file(&file).caused_by(e);
    team.put(&format!("sums/{number}"), fs::read(&file).map_err(failed)?)?;
    fs::write(&file, team.get("sums")?).map_err(failed)?;
    options.setting.share = None;
    let all = options.setting.with_stats(model, data.part(0..data.samples()))?;
    let alone = calibration(&all)?;
    let data = Calibration { team: Some(&team), ..alone };
    let recorded = match recorded {
        Some(recorded) => recorded,
        None => recording(subject, data)?.without_sums().run(subject, data)?,
    };
    // The lead scores meanwhile.
    let bases = if service.passes.scores { Bases::find(subject, alone)? } else { Bases::default() };
    progress.enter("repairing")?;
    repair::serve(subject, (&team, Calibration { recorded: Some(&recorded), ..data }), &bases)
}

/// What all workers gathered, for the job that leads at `board`: the file `stats` gets it.
///
/// # Errors
/// If a worker failed, or the file cannot be written.
pub(crate) fn gathered(board: &Arc<dyn Board>, workers: usize, stats: &Path) -> Result<()> {
    let team = Team::new(Arc::clone(board), workers, None)?;
    let failed = |e: std::io::Error| Error::output(e.to_string()).in_file(stats).caused_by(e);
    let folder = tempfile::tempdir().map_err(failed)?;
    let files: Vec<PathBuf> = (1..=workers).map(|number| folder.path().join(number.to_string())).collect();
    for (number, file) in files.iter().enumerate() {
        fs::write(file, team.get(&format!("sums/{}", number + 1))?).map_err(failed)?;
    }
    match files.as_slice() {
        [file] => fs::copy(file, stats).map(drop).map_err(failed)?,
        _ => merge_stats(&files, stats).map(drop)?,
    }
    team.put("sums", fs::read(stats).map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Condvar, Mutex};

    use super::*;
    use crate::plan::Units;
    use crate::repair::dismiss;
    use crate::repair::recurrent_tests::recurrent;
    use crate::{Dataset, PruneOptions};

    /// A board in memory.
    #[derive(Debug, Default)]
    struct Table(Mutex<BTreeMap<String, Vec<u8>>>, Condvar);

    impl Board for Table {
        fn put(&self, key: &str, content: Vec<u8>) -> Result<()> {
            let known = self.0.lock().unwrap().insert(key.to_owned(), content.clone());
            assert!(known.is_none_or(|known| known == content), "{key}");
            self.1.notify_all();
            Ok(())
        }

        fn get(&self, key: &str) -> Result<Vec<u8>> {
            let there = self.1.wait_while(self.0.lock().unwrap(), |there| !there.contains_key(key)).unwrap();
            Ok(there[key].clone())
        }
    }

    /// The file that a job makes with this many workers, and how often they repaired.
    fn pruned((model, samples): (&Model, &Dataset), options: &PruneOptions, workers: usize) -> (Vec<u8>, usize) {
        let mut options = options.clone().data(samples.clone());
        if workers == 0 {
            return (crate::prune(model, &options).unwrap().model.to_bytes().unwrap(), 0);
        }
        let folder = tempfile::tempdir().unwrap();
        let board: Arc<dyn Board> = Arc::new(Table::default());
        options.setting.team = Some(Team::new(board.clone(), workers, None).unwrap());
        std::thread::scope(|scope| {
            let serving = (1..=workers).map(|worker| {
                let stats = folder.path().join(worker.to_string());
                let options = GatherOptions::new().data(samples.clone()).stats(stats);
                let passes = Passes { scores: true, ..Passes::default() };
                let service = Service { worker, workers, passes, thaw: BTreeSet::new() };
                let board = &board;
                scope.spawn(move || serve(model, &options, &service, board).unwrap())
            });
            let serving: Vec<_> = serving.collect();
            let stats = folder.path().join("all");
            gathered(&board, workers, &stats).unwrap();
            options = options.stats(stats);
            let outcome = crate::prune(model, &options);
            options.setting.team.iter().for_each(|team| dismiss(team).unwrap());
            let repairs = serving.into_iter().map(|served| served.join().unwrap()).max().unwrap_or(0);
            (outcome.unwrap().model.to_bytes().unwrap(), repairs)
        })
    }

    /// Layers, heads in new bases, whole heads with the attention before them, gates.
    #[test]
    fn workers_make_the_same_file() {
        let ratio = || PruneOptions::ratio(0.5).align(1);
        let load = |name: &str| Model::load(format!("fixtures/{name}.onnx")).unwrap();
        let (digits, few) = (Dataset::from_path("fixtures/calib.npz"), Dataset::synthetic(48));
        let lstm = Model::from_proto(recurrent("LSTM", "direction=bidirectional", 2));
        for (number, (model, samples, options, teams)) in [
            (load("digits_resnet"), &digits, ratio(), &[1, 4][..]),
            (load("digits_vit"), &few, ratio().units(Units::Dims), &[2]),
            (load("digits_vit"), &few, ratio().units(Units::Heads), &[3]),
            (lstm, &Dataset::synthetic(100), ratio(), &[4]),
        ]
        .into_iter()
        .enumerate()
        {
            let (alone, _) = pruned((&model, samples), &options, 0);
            for &workers in teams {
                let (shared, repairs) = pruned((&model, samples), &options, workers);
                assert!(shared == alone && repairs == 1, "{number} {workers} {repairs}");
            }
        }
    }
}
