/** Parts of the page that may fail by themselves: what they say then stands in their place, and nothing else goes with them. */

import { Component, lazy, Suspense, useState, type ComponentType, type ReactNode } from "react";

type Around = ComponentType<{ children: ReactNode }>;

class Unloaded extends Error {}

interface Props {
  /** What the part's own words stand in. */
  Around: Around;
  /** What is shown; another one is tried again without being asked for. */
  of?: unknown;
  onRetry?: () => void;
  children: ReactNode;
}

/** Holds what goes wrong in drawing its children, so that React does not take the whole page out. */
export class Boundary extends Component<Props, { failure: unknown }> {
  override state: { failure: unknown } = { failure: null };

  static getDerivedStateFromError(failure: unknown) {
    return { failure };
  }

  override componentDidUpdate(before: Props) {
    if (before.of !== this.props.of && this.state.failure !== null) this.setState({ failure: null });
  }

  override render() {
    const { Around, children, onRetry } = this.props;
    const { failure } = this.state;
    if (failure === null) return children;
    const again = () => {
      onRetry?.();
      this.setState({ failure: null });
    };
    return (
      <Around>
        <p role="alert" className="refusal">
          {failure instanceof Unloaded
            ? "This part of the page cannot be loaded: the server does not answer, or it has been renewed."
            : "This part of the page has failed."}{" "}
          <button type="button" onClick={again}>
            Try again
          </button>
        </p>
        <p className="muted">If it stays so, load the page anew once your files are sent.</p>
      </Around>
    );
  }
}

/** Browsers keep for as long as the page lives that a script failed to load; under another address they ask for it again. */
function elsewhere(failure: unknown): string | null {
  const address = failure instanceof Error ? /https?:[^\s?]+/.exec(failure.message) : null;
  return address === null ? null : `${address[0]}?again=${Date.now()}`;
}

const Plain: Around = ({ children }) => <div>{children}</div>;

/** A component whose script is loaded when it is first shown. */
export function part<Own extends object>(load: () => Promise<{ default: ComponentType<Own> }>, loading: string, Around: Around = Plain): ComponentType<Own> {
  const begin = (address: string | null): ComponentType<Own> =>
    lazy(() => {
      const loaded = address === null ? load() : (import(/* @vite-ignore */ address) as ReturnType<typeof load>);
      return loaded.catch((cause: unknown) => {
        // React keeps the failure too: whoever comes next or tries again gets a new component.
        Next = begin(elsewhere(cause));
        throw new Unloaded("not loaded", { cause });
      });
    });
  let Next = begin(null);
  return function Part(props: Own) {
    const [Loaded, setLoaded] = useState(() => Next);
    return (
      <Boundary Around={Around} onRetry={() => setLoaded(() => Next)}>
        <Suspense
          fallback={
            <Around>
              <p role="status">{loading}</p>
            </Around>
          }
        >
          <Loaded {...props} />
        </Suspense>
      </Boundary>
    );
  };
}
