/** How many batches stand where, and what waits in the queues. */

import { Link } from "react-router";

import { Moment } from "../feel/Moment";
import { NotLoaded } from "../feel/NotLoaded";
import { StateWord } from "../feel/StateMark";
import { age, count, plural } from "../feel/words";
import { useHealth } from "./looking";
import { Tile } from "./Tile";

export function Pipeline() {
  const { data, isError, refetch } = useHealth();
  return (
    <Tile title="Pipeline" note="batches by state">
      {isError && <NotLoaded what="These figures" again={refetch} />}
      {data?.pipeline.length === 0 && (
        <p className="empty">
          No batch yet. <Link to="/">Drop a file on the station</Link>.
        </p>
      )}
      {data !== undefined && data.pipeline.length > 0 && (
        <table className="plain">
          <thead>
            <tr>
              <th scope="col">State</th>
              <th scope="col" className="number">
                Batches
              </th>
              <th scope="col" className="number">
                Oldest
              </th>
              <th scope="col">Newest</th>
            </tr>
          </thead>
          <tbody>
            {data.pipeline.map((each) => (
              <tr key={each.status}>
                <td>
                  <Link to={`/batches?status=${each.status}`} className="quiet-link">
                    <StateWord state={each.status} />
                  </Link>
                </td>
                <td className="number">{count(each.batch_count)}</td>
                <td className="number">{age(each.oldest_age_minutes * 60)}</td>
                <td>
                  <Moment iso={each.newest_batch_at} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Tile>
  );
}

export function Queues() {
  const { data, isError, refetch } = useHealth();
  return (
    <Tile
      title="Queues"
      note={
        data !== undefined && (
          <>
            {plural(data.workers.alive, "worker")} with {plural(data.workers.places, "place")}
            {data.workers.silent > 0 && <span className="bad"> · {data.workers.silent} silent</span>}
          </>
        )
      }
    >
      {isError && <NotLoaded what="These figures" again={refetch} />}
      {data !== undefined && (
        <table className="plain">
          <thead>
            <tr>
              <th scope="col">Priority</th>
              <th scope="col" className="number">
                Waiting
              </th>
              <th scope="col" className="number">
                Backing off
              </th>
              <th scope="col" className="number">
                Oldest
              </th>
            </tr>
          </thead>
          <tbody>
            {data.queues.map((queue) => (
              <tr key={queue.priority}>
                <th scope="row">{queue.priority}</th>
                <td className="number">{count(queue.claimable)}</td>
                <td className="number">{count(queue.backing_off)}</td>
                <td className="number">{age(queue.oldest_age_seconds)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Tile>
  );
}
