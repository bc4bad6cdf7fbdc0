/** What stands in the place of what the server did not give, and the way to ask again. */
export function NotLoaded({ what, again }: { what: string; again: () => unknown }) {
  return (
    <p className="refusal" role="alert">
      {what} cannot be loaded just now.{" "}
      <button type="button" onClick={() => void again()}>
        Try again
      </button>
    </p>
  );
}
